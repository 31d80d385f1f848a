-- One tick of one gateway at the lanes: free the places of ended calls, then admit and push new ones. (holder.lua stands before this.)
--
-- Calls come in groups with the same API key, version and priority. A group is admitted as far as everything allows:
-- the token buckets of its key and its organization, their places, and the room in the lane. What is admitted is pushed
-- in the same breath, to the version's own lane if a worker has it loaded, else to the pool. A group may ask without its
-- frames, which then follow by push.lua: a large call's frame is not sent to be refused, however often it asks.
-- Of a turn (calls that may be under way for all, of one version or in the slow places) that several organizations have asked for
-- within the last SHARING seconds, each has at most its share, and at least one. `spare` shares are left free for who may come.
--
-- KEYS: per group 7: holders of the key, of the organization, and of the organization's part of the turn; lane, resident mark,
--       pool, organizations that share the turn; then per release 3 holders: key, organization, turns ("" if it took none)
-- ARGV: gateway, number of groups; per group: n, is_limited, key rate, burst, places, organization rate, burst, places, room, turn
--       (0: none), spare, organization, latest deadline (epoch seconds), then n frames, or n times "" to push none; then number of releases, and
--       each one's count
-- Returns per group {admitted, reason, key tokens, organization tokens, wait}: reason "" or which limit refused the rest,
--       tokens as left in the buckets, wait in milliseconds until another call could be admitted.
-- Buckets start full and places start empty: losing this server forgives, it never blocks.
local SHARING = 5
local gateway, groups, at, key = ARGV[1], tonumber(ARGV[2]), 3, 1

-- Releases stand behind the groups but happen first: a place that was freed can be taken in the same tick.
local skip = at
for _ = 1, groups do skip = skip + 13 + ARGV[skip] end
for release = 1, tonumber(ARGV[skip]) do
  for name = 7 * groups + 3 * release - 2, 7 * groups + 3 * release do
    if KEYS[name] ~= '' then free(holder_of(KEYS[name]), gateway, tonumber(ARGV[skip + release])) end
  end
end

local result = {}
for g = 1, groups do
  local n, is_limited = tonumber(ARGV[at]), ARGV[at + 1] == '1'
  local room, turn = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local lane = redis.call('EXISTS', KEYS[key + 4]) == 1 and KEYS[key + 3] or KEYS[key + 5]
  local k, reason, wait = math.min(n, math.max(0, room - redis.call('LLEN', lane))), '', 0
  if k < n then reason, wait = 'lane', 1000 end
  local key_tokens, org_tokens = 0, 0
  if is_limited then
    local key_rate, key_burst, key_places = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local org_rate, org_burst, org_places = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
    local mine, all, turns = holder_of(KEYS[key]), holder_of(KEYS[key + 1]), turn > 0 and holder_of(KEYS[key + 2])
    key_tokens, org_tokens = tokens_of(mine, key_rate, key_burst), tokens_of(all, org_rate, org_burst)
    local function bound(most, why, after)
      if most < k then k, reason, wait = math.max(0, most), why, after end
    end
    bound(math.floor(key_tokens), 'rate:key', math.ceil((1 - key_tokens % 1) / key_rate * 1000))
    bound(math.floor(org_tokens), 'rate:organization', math.ceil((1 - org_tokens % 1) / org_rate * 1000))
    bound(key_places - taken(mine), 'concurrency:key', 1000)
    bound(org_places - taken(all), 'concurrency:organization', 1000)
    if turns then
      local sharing = KEYS[key + 6]
      redis.call('ZADD', sharing, now + SHARING, ARGV[at + 11])
      redis.call('EXPIRE', sharing, SHARING + 1)
      redis.call('ZREMRANGEBYSCORE', sharing, '-inf', now)
      local shares = redis.call('ZCARD', sharing) + tonumber(ARGV[at + 10])
      if shares > 1 then bound(math.max(1, math.floor(turn / shares)) - taken(turns), 'share', 1000) end
    end
    if k > 0 then
      local till = tonumber(ARGV[at + 12])
      key_tokens, org_tokens = key_tokens - k, org_tokens - k
      set_tokens(mine, key_tokens, key_rate, key_burst)
      set_tokens(all, org_tokens, org_rate, org_burst)
      take(mine, gateway, k, till)
      take(all, gateway, k, till)
      if turns then take(turns, gateway, k, till) end
    end
  end
  if k > 0 and ARGV[at + 13] ~= '' then redis.call('RPUSH', lane, unpack(ARGV, at + 13, at + 12 + k)) end
  result[g] = {k, reason, math.floor(key_tokens), math.floor(org_tokens), wait}
  at, key = at + 13 + n, key + 7
end
save()
return result
