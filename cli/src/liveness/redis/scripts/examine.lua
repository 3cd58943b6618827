-- For people; changes nothing. KEYS: the marker, and a key that nobody writes. Gives the time, what INFO says, the marker (or
-- nothing), and for each command that a worker's scripts write with the error that it meets, or nothing: each of them finds
-- that there is nothing to do.
local time = redis.call('TIME')
local marker = redis.call('GET', KEYS[1])
local function try(...)
  local answer = redis.pcall(...)
  return type(answer) == 'table' and answer.err or ''
end
local answer = { time[1] * 1000000 + time[2], redis.call('INFO'), marker or '' }
answer[4] = try('SET', KEYS[2], '', 'XX')
answer[5] = try('DEL', KEYS[2])
answer[6] = try('PEXPIRE', KEYS[2], 1)
answer[7] = try('PTTL', KEYS[2])
answer[8] = try('SMEMBERS', KEYS[2])
-- A text is no set.
answer[9] = marker and try('SADD', KEYS[1], '') or ''
return answer
