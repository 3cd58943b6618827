# expect: failed failed failed
# says: the stream child exited
next
