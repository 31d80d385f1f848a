-- A session's heartbeat. Without its key (a reaper has taken it) it does nothing. It also looks how full the server is, for all
-- scripts until the next beat: to ask in each of them would cost a tenth of a lonely call.
-- KEYS: 1 open:{session}, 2 books:full, which is there while nothing may open. ARGV: 1 percent of memory above which that is so.
-- Returns {1 if the session is alive, else 0; the platform's clock: seconds; microseconds}.

local function is_memory_full()
  local info = redis.call('INFO', 'memory')
  local used, most = string.match(info, 'used_memory:(%d+)'), tonumber(string.match(info, 'maxmemory:(%d+)'))
  return most > 0 and 100 * tonumber(used) / most > tonumber(ARGV[1])
end

local is_full, was_full = is_memory_full(), redis.call('EXISTS', KEYS[2]) == 1
if is_full and not was_full then redis.call('SET', KEYS[2], '1') end
if was_full and not is_full then redis.call('DEL', KEYS[2]) end
local is_alive = redis.call('EXISTS', KEYS[1])
if is_alive == 1 then redis.call('HINCRBY', KEYS[1], 'beat', 1) end
local seconds, us = time_us()
return {is_alive, seconds, us}
