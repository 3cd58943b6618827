# expect: success success success
# says: a row that it does not have
for n in 1 2 3; do echo "{\"line\":$n,\"token\":$((n + 1000)),\"status\":\"failed\"}"; done; while next; do succeed; done
