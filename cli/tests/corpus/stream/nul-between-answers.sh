# expect: success success success
# says: answers no row
while next; do printf "\000\n"; succeed; done
