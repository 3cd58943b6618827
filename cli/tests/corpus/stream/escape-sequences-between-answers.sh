# expect: success success success
# says: \u{1b}[2J
while next; do printf "\033[2J\n"; succeed; done
