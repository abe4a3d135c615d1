// Package resolver answers DNS queries the way a process in the target would resolve the
// name: with the target's resolv.conf and hosts file, from the target's network.
//
// The query comes from a stub resolver on the laptop that knows nothing of the target's
// search list. The agent applies it: a query for "shop" is asked as
// "shop.ns.svc.cluster.local" and so on, in the order and with the rules of glibc's
// res_search(3), and the answer is given under the name that was asked, so that the stub
// accepts it. A name that already ends in a domain of the list is asked as it is: a stub
// that expands names itself sends those, and expanding twice would meet wildcards.
//
// All record types pass. Answers are cached by their TTL (RFC 1035, RFC 2308) within
// bounded memory, and equal questions under way at the same time are asked once.
package resolver
