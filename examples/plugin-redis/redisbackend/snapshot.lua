-- The last change of a scope, and the keys that are live with it, each with its
-- version: one moment.
local index, scope = KEYS[1], KEYS[2]
local found = redis.call('ZRANGE', index, ARGV[1], ARGV[2], 'BYLEX')
local answer = {redis.call('HGET', scope, 'last') or '0'}
for _, key in ipairs(found) do
  answer[#answer + 1] = key
  answer[#answer + 1] = string.match(redis.call('GETRANGE', ARGV[3] .. key, 0, 20), '^%d+') or '0'
end
return answer
