-- One request of the rate limits: a token from the buckets of a key and of its organization, or from neither.
-- The buckets are those of inference/gateway/admit.lua, so calls and creations share them.
--
-- KEYS: bucket of the key, bucket of the organization
-- ARGV: key rate, burst, organization rate, burst
-- Returns {"", 0}, or which limit refused (key, organization) and the milliseconds until it has a token.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local left = {}
for i, source in ipairs({'key', 'organization'}) do
  local rate, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local b = redis.call('HMGET', KEYS[i], 'tokens', 'at')
  left[i] = math.min(burst, (tonumber(b[1]) or burst) + math.max(0, now - (tonumber(b[2]) or now)) * rate)
  if left[i] < 1 then return {source, math.ceil((1 - left[i]) / rate * 1000)} end
end
for i = 1, 2 do
  redis.call('HSET', KEYS[i], 'tokens', tostring(left[i] - 1), 'at', string.format('%.6f', now))
  redis.call('EXPIRE', KEYS[i], math.ceil(tonumber(ARGV[2 * i]) / tonumber(ARGV[2 * i - 1])) + 60)
end
return {'', 0}
