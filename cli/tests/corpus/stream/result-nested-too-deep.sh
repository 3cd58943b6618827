# expect: failed failed failed
# says: nested
deep=$(printf "%0300d" 0 | tr 0 "["); shut=$(printf "%0300d" 0 | tr 0 "]"); while next; do say success "\"result\":$deep$shut"; done
