-- KEYS: the marker, then heartbeats. Gives the time, since when the data are here, the uptime, whether this is a master, and
-- for each heartbeat 1 or 0. One that has no time to live was not written by a worker.
local now, since = look(KEYS[1])
local uptime, master = server()
local answer = { now, since, uptime, master }
for at = 2, #KEYS do
  answer[at + 3] = redis.call('PTTL', KEYS[at]) > 0 and 1 or 0
end
return answer
