-- KEYS: the marker, the heartbeat, the running rows.
local now = look(KEYS[1])
redis.call('DEL', KEYS[2], KEYS[3])
return { now }
