# expect: failed failed failed
# says: a line longer than 4096 bytes
next; head -c 10000 /dev/zero | tr "\000" x; sleep 1000
