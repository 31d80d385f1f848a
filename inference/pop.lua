-- Pop what has accumulated in the first of several lists, bounded by number and bytes.
--
-- KEYS: the lists, in the order in which they are asked
-- ARGV: 1 the most calls, 2 the most bytes (the first call is taken whatever its size)
-- Returns the list's name and its calls, in their order, like LMPOP; nil if all lists are empty.
for _, key in ipairs(KEYS) do
  local first = redis.call('LPOP', key)
  if first then
    local frames, bytes = {first}, #first
    while #frames < tonumber(ARGV[1]) do
      local frame = redis.call('LPOP', key)
      if not frame then break end
      bytes = bytes + #frame
      if bytes > tonumber(ARGV[2]) then
        redis.call('LPUSH', key, frame)
        break
      end
      frames[#frames + 1] = frame
    end
    return {key, frames}
  end
end
return false
