-- KEYS: the marker, the heartbeat, the running rows. ARGV: the running rows. They last as long as the heartbeat does.
local now = look(KEYS[1])
local left = redis.call('PTTL', KEYS[2])
if left > 0 then
  publish(KEYS[3], 1, left)
end
return { now }
