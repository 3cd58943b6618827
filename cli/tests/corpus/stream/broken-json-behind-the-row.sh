# expect: failed failed failed
# says: not JSON
while next; do echo "{\"line\":$line,\"token\":$token,\"status\":\"success\",,,"; done
