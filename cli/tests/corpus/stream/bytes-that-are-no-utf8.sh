# expect: success success success
# says: answers no row
while next; do printf "\377\376\n"; succeed; done
