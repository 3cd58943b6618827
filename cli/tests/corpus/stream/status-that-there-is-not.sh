# expect: failed failed failed
# says: must be
while next; do say done "\"result\":1"; done
