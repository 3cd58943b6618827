-- For people; writes nothing. KEYS: the marker, then heartbeat and running rows of each worker. Gives the time, since when the
-- data are here (or nothing), the uptime, whether this is a master, and for each worker its heartbeat's time to live in
-- milliseconds (or less than 1) and its running rows.
local time = redis.call('TIME')
local uptime, master = server()
local answer = { time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[1])) or 0, uptime, master }
for at = 2, #KEYS, 2 do
  answer[#answer + 1] = redis.call('PTTL', KEYS[at])
  answer[#answer + 1] = redis.call('SMEMBERS', KEYS[at + 1])
end
return answer
