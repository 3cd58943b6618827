-- Redis' own time in microseconds. Also sees to the marker that tells since when these data are here: a flush and a restart
-- without data take it along, so whoever asks first afterwards writes it anew; so does a clock that was set back before it.
local function look(marker)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local since = tonumber(redis.call('GET', marker))
  if not since or since > now then
    since = now
    redis.call('SET', marker, string.format('%.0f', now))
  end
  return now, since
end

-- Replaces the set of running rows by the arguments from the given one on.
local function publish(running, from, ttl)
  redis.call('DEL', running)
  for first = from, #ARGV, 1000 do
    redis.call('SADD', running, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
  if #ARGV >= from then
    redis.call('PEXPIRE', running, ttl)
  end
end

-- What the server says of itself: the uptime in seconds, and whether it is a master.
local function server()
  local uptime = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
  local master = string.find(redis.call('INFO', 'replication'), 'role:master', 1, true)
  return tonumber(uptime) or 0, master and 1 or 0
end
