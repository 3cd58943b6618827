# expect: failed failed failed
# says: stream child
next; exec >&-; sleep 1000
