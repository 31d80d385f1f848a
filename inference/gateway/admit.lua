-- One tick of one gateway at the lanes: free the places of ended calls, then admit and push new ones.
--
-- Calls come in groups with the same API key, version and priority. A group is admitted as far as everything allows:
-- the token buckets of its key and its organization, their places, and the room in the lane. What is admitted is pushed
-- in the same breath, to the version's own lane if a worker has it loaded, else to the pool.
-- Of a version with a turn (calls that it may have under way for all) that several organizations have called within the last
-- SHARING seconds, each has at most its share of the turn, and at least one.
--
-- KEYS: per group 9: bucket of the key, bucket of the organization, places of the key, places of the organization,
--       lane, resident mark, pool, turns of the organization at the version, organizations that share the version;
--       then per release 3: places of the key, places of the organization, turns of the organization at the version
-- ARGV: number of groups; per group: n, is_limited, key rate, burst, places, organization rate, burst, places, room, turn
--       (0: none), organization, then n times: call id, deadline (epoch seconds), frame; then number of releases, per release: m, m call ids
-- Returns per group {admitted, reason, key tokens, organization tokens, wait}: reason "" or which limit refused the rest,
--       tokens as left in the buckets, wait in milliseconds until another call could be admitted.
-- Buckets start full and places start empty: losing this server forgives, it never blocks.
local SHARING = 5
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local groups, at, key = tonumber(ARGV[1]), 2, 1

local function tokens_of(bucket, rate, burst)
  local b = redis.call('HMGET', bucket, 'tokens', 'at')
  return math.min(burst, (tonumber(b[1]) or burst) + math.max(0, now - (tonumber(b[2]) or now)) * rate)
end

local function taken(places)
  redis.call('ZREMRANGEBYSCORE', places, '-inf', now)
  return redis.call('ZCARD', places)
end

-- Releases stand behind the groups but happen first: a place that was freed can be taken in the same tick.
local skip = at
for _ = 1, groups do skip = skip + 11 + 3 * tonumber(ARGV[skip]) end
local releases, rkey = tonumber(ARGV[skip]), 9 * groups + 1
skip = skip + 1
for _ = 1, releases do
  local m = tonumber(ARGV[skip])
  redis.call('ZREM', KEYS[rkey], unpack(ARGV, skip + 1, skip + m))
  redis.call('ZREM', KEYS[rkey + 1], unpack(ARGV, skip + 1, skip + m))
  redis.call('ZREM', KEYS[rkey + 2], unpack(ARGV, skip + 1, skip + m))
  skip, rkey = skip + m + 1, rkey + 3
end

local result = {}
for g = 1, groups do
  local n, is_limited = tonumber(ARGV[at]), ARGV[at + 1] == '1'
  local room, turn = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local lane = redis.call('EXISTS', KEYS[key + 5]) == 1 and KEYS[key + 4] or KEYS[key + 6]
  local free = room - redis.call('LLEN', lane)
  local k, reason, wait = math.min(n, math.max(0, free)), '', 0
  if k < n then reason, wait = 'lane', 1000 end
  local key_tokens, org_tokens, ids = 0, 0, {}
  if is_limited then
    local key_rate, key_burst, key_places = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local org_rate, org_burst, org_places = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
    key_tokens, org_tokens = tokens_of(KEYS[key], key_rate, key_burst), tokens_of(KEYS[key + 1], org_rate, org_burst)
    local bounds = {
      {math.floor(key_tokens), 'rate:key', math.ceil((1 - key_tokens % 1) / key_rate * 1000)},
      {math.floor(org_tokens), 'rate:organization', math.ceil((1 - org_tokens % 1) / org_rate * 1000)},
      {key_places - taken(KEYS[key + 2]), 'concurrency:key', 1000},
      {org_places - taken(KEYS[key + 3]), 'concurrency:organization', 1000},
    }
    if turn > 0 then
      local sharing = KEYS[key + 8]
      redis.call('ZADD', sharing, now + SHARING, ARGV[at + 10])
      redis.call('EXPIRE', sharing, SHARING + 1)
      local organizations = taken(sharing)
      if organizations > 1 then
        local share = math.max(1, math.floor(turn / organizations))
        bounds[5] = {share - taken(KEYS[key + 7]), 'share', 1000}
      end
    end
    for _, bound in ipairs(bounds) do
      if bound[1] < k then k, reason, wait = math.max(0, bound[1]), bound[2], bound[3] end
    end
    if k > 0 then
      key_tokens, org_tokens = key_tokens - k, org_tokens - k
      for i = 0, k - 1 do
        ids[2 * i + 1], ids[2 * i + 2] = ARGV[at + 12 + 3 * i], ARGV[at + 11 + 3 * i]
      end
      redis.call('ZADD', KEYS[key + 2], unpack(ids))
      redis.call('ZADD', KEYS[key + 3], unpack(ids))
      if turn > 0 then
        redis.call('ZADD', KEYS[key + 7], unpack(ids))
        redis.call('EXPIRE', KEYS[key + 7], 120)
      end
      redis.call('EXPIRE', KEYS[key + 2], 120)
      redis.call('EXPIRE', KEYS[key + 3], 120)
      redis.call('HSET', KEYS[key], 'tokens', tostring(key_tokens), 'at', string.format('%.6f', now))
      redis.call('EXPIRE', KEYS[key], math.ceil(key_burst / key_rate) + 60)
      redis.call('HSET', KEYS[key + 1], 'tokens', tostring(org_tokens), 'at', string.format('%.6f', now))
      redis.call('EXPIRE', KEYS[key + 1], math.ceil(org_burst / org_rate) + 60)
    end
  end
  local frames = {}
  for i = 0, k - 1 do frames[i + 1] = ARGV[at + 13 + 3 * i] end
  if k > 0 then redis.call('RPUSH', lane, unpack(frames)) end
  result[g] = {k, reason, math.floor(key_tokens), math.floor(org_tokens), wait}
  at, key = at + 11 + 3 * n, key + 9
end
return result
