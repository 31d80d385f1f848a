-- One request of the rate limits: a token from the buckets of a key and of its organization, or from neither.
-- The holders are those of inference/gateway/admit.lua (holder.lua stands before this), so calls and creations share them.
--
-- KEYS: holder of the key, holder of the organization
-- ARGV: key rate, burst, organization rate, burst
-- Returns {"", 0}, or which limit refused (key, organization) and the milliseconds until it has a token.
local left = {}
for i, source in ipairs({'key', 'organization'}) do
  local rate, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  left[i] = tokens_of(holder_of(KEYS[i]), rate, burst)
  if left[i] < 1 then return {source, math.ceil((1 - left[i]) / rate * 1000)} end
end
for i = 1, 2 do
  set_tokens(holder_of(KEYS[i]), left[i] - 1, tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i]))
end
save()
return {'', 0}
