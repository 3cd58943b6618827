# expect: success success success
# says: a row that it does not have
while next; do echo "{\"line\":$line,\"token\":$((token + 1000)),\"status\":\"success\"}"; succeed; done
