# expect: success success success
# says: a row that it does not have
while next; do succeed; say failed "\"error\":\"second thoughts\""; done
