# expect: failed failed failed
# says: answers no row
next; echo "{\"line\":\"$line\",\"token\":$token,\"status\":\"success\"}"
