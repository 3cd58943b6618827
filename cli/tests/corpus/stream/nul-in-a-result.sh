# expect: failed failed failed
# says: NUL
while next; do say success "\"result\":\"\\u0000\""; done
