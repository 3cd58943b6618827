-- KEYS: the marker, the heartbeat, the running rows. ARGV: the ttl in milliseconds, the worker's name, the running rows.
local now = look(KEYS[1])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[1])
publish(KEYS[3], 3, ARGV[1])
return { now }
