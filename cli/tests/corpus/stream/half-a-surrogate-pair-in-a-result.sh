# expect: failed failed failed
# says: surrogate
while next; do say success "\"result\":\"\\ud800\""; done
