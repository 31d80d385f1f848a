-- A session's heartbeat. Without its key (a reaper has taken it) it does nothing. It also looks how full the server is, for all
-- scripts until the next beat: to ask in each of them would cost a tenth of a lonely call.
-- KEYS: 1 open:{session}, 2 books:full, which is `claims` while no call with a claim may open, `all` while none may.
-- ARGV: 1, 2 percent of memory above which that is so.
-- Returns {1 if the session is alive, else 0; the platform's clock: seconds; microseconds; 1 while none may open, else 0; bytes of
-- memory that are left for claims, -1 where it has no bound}.

local info = redis.call('INFO', 'memory')
local used, most = tonumber(string.match(info, 'used_memory:(%d+)')), tonumber(string.match(info, 'maxmemory:(%d+)'))
local function left_of(percent) return math.floor(most * percent / 100) - used end
local full = most > 0 and (left_of(ARGV[2]) < 0 and 'all' or left_of(ARGV[1]) < 0 and 'claims')
local was = redis.call('GET', KEYS[2])
if full and full ~= was then redis.call('SET', KEYS[2], full) end
if was and not full then redis.call('DEL', KEYS[2]) end
local is_alive = redis.call('EXISTS', KEYS[1])
if is_alive == 1 then redis.call('HINCRBY', KEYS[1], 'beat', 1) end
local seconds, us = time_us()
return {is_alive, seconds, us, full == 'all' and 1 or 0, most > 0 and math.max(0, left_of(ARGV[1])) or -1}
