# expect: success success success
# says: a row that it does not have
while next; do echo "{\"line\":$((line + 7)),\"token\":$token,\"status\":\"success\"}"; succeed; done
