# expect: failed failed failed
# says: has no end
next; printf "{\"line\":$line,\"token\":$token,\"status\":\"succ"
