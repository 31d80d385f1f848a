-- Move work that lies in a lane nobody serves back to the pool, where any worker finds it.
--
-- A lane is served while its resident mark exists. A gateway may push into a lane just as its last worker lets go of the version
-- or dies; nothing else would ever pop that work.
--
-- KEYS: 1 the set of lanes of this hardware, 2 its pool, 3 its low-priority pool
-- ARGV: the versions to look at; none: all in the set
-- Returns the number of calls moved. The order within each lane is kept, and they go in front of what is in the pool.
local versions = #ARGV > 0 and ARGV or redis.call('SMEMBERS', KEYS[1])
local moved = 0
for _, version in ipairs(versions) do
  if redis.call('EXISTS', 'resident:' .. version) == 0 then
    for suffix, pool in pairs({[''] = KEYS[2], [':slow'] = KEYS[2], [':low'] = KEYS[3], [':slow:low'] = KEYS[3]}) do
      while redis.call('LMOVE', 'lane:' .. version .. suffix, pool, 'RIGHT', 'LEFT') do moved = moved + 1 end
    end
    redis.call('SREM', KEYS[1], version)
  end
end
return moved
