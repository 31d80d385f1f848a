-- What a reaper looks at. No KEYS, no ARGV.
-- Returns {{session, beat, session, beat …}, {session that is being reaped …}}; sessions without a key are forgotten.

local beats = {}
for _, session in ipairs(redis.call('SMEMBERS', 'sessions')) do
  local beat = redis.call('HGET', 'open:' .. session, 'beat')
  if beat then
    beats[#beats + 1], beats[#beats + 2] = session, beat
  else
    redis.call('SREM', 'sessions', session)
  end
end
return {beats, redis.call('SMEMBERS', 'reaping')}
