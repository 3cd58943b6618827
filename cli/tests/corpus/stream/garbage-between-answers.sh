# expect: success success success
# says: answers no row
while next; do echo "}{ oops"; echo; echo "[]"; succeed; done
