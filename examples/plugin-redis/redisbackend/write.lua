-- One change of one ID. It returns what became of it, and what goes with that.
-- A record is "<version> <p|d> <sequence> <microseconds>\n<meta>\n<value>".
local latest, older, index, changes, scope, written, sequence, size = unpack(KEYS)
local expected, kind, key, meta, value, limit, change_limit, window, asked, channel, about = unpack(ARGV)
limit, change_limit = tonumber(limit), tonumber(change_limit)
local trim_most = 100 -- of each kind with one write, after a limit was lowered

if window ~= '' then
  local first = redis.call('HMGET', written, 'asked', 'result')
  if first[1] then
    if first[1] == asked then return {'ok', first[2]} end
    return {'exists'}
  end
end

local version, live, at = 0, false, 0
local before = redis.call('GET', latest)
if before then
  local v, k, _, a = string.match(before, '^(%d+) ([pd]) (%d+) (%d+)\n')
  if not v then return {'damaged'} end
  version, live, at = tonumber(v), k == 'p', tonumber(a)
end
if kind == 'd' and not live then return {'missing'} end
if expected == '0' and live or expected ~= '' and expected ~= '0' and expected ~= string.format('%.0f', version) then
  return {'conflict', string.format('%.0f', version)}
end

local now = redis.call('TIME')
at = math.max(at, tonumber(now[1]) * 1000000 + tonumber(now[2])) -- the clock may go back
local seq = redis.call('INCR', sequence)
local header = string.format('%.0f %s %.0f %.0f\n', version + 1, kind, seq, at)
local record = header .. meta .. '\n' .. value

if before then redis.call('HSET', older, string.format('%.0f', version), before) end
redis.call('SET', latest, record)
if kind == 'p' then redis.call('ZADD', index, 0, key) else redis.call('ZREM', index, key) end
if (kind == 'p') ~= live then redis.call('HINCRBY', size, 'entries', kind == 'p' and 1 or -1) end

-- Versions that history does not show any more; 'from' is the oldest that is there.
local from = tonumber(redis.call('HGET', older, 'from') or '1')
local dropped = 0
while from <= version + 1 - limit and dropped < trim_most do
  redis.call('HDEL', older, string.format('%.0f', from))
  from, dropped = from + 1, dropped + 1
end
if dropped > 0 then redis.call('HSET', older, 'from', from) end
redis.call('HINCRBY', size, 'versions', 1 - dropped)

redis.call('XADD', changes, string.format('%.0f-0', seq), 'key', key, 'record', record)
redis.call('HSET', scope, 'last', seq)
local surplus = math.min(redis.call('XLEN', changes) - change_limit, trim_most)
if surplus > 0 then
  local gone = redis.call('XRANGE', changes, '-', '+', 'COUNT', surplus)
  for _, entry in ipairs(gone) do redis.call('XDEL', changes, entry[1]) end
  redis.call('HSET', scope, 'floor', string.match(gone[#gone][1], '^%d+'))
end
redis.call('HINCRBY', size, 'changes', 1 - math.max(surplus, 0))

local result = header .. meta .. '\n'
if window ~= '' then
  redis.call('HSET', written, 'asked', asked, 'result', result)
  redis.call('PEXPIRE', written, window)
end
redis.call('PUBLISH', channel, about)
return {'ok', result}
