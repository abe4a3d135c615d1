// Package timerslack makes a program that carries traffic cheaper to run.
//
// Go's runtime has a thread that looks after the others. While a program has something to do now and then, as one that carries messages has, that
// thread sleeps for 20 µs at a time, to which Linux adds the timer slack of the thread, 50 µs unless somebody chose another one (prctl(2),
// PR_SET_TIMERSLACK): some 6,000 times a second it is woken, looks, and sleeps again. That was a seventh of a session's processor time, on a virtual
// machine, where timers are dear. Nothing but the slack changes how long the thread sleeps, a thread can only change its own, and none of a program's
// code runs on that one. But a thread has the slack of the one that started it, and so has the first thread of a program that is executed. [Widen]
// executes the program again with a wide slack, and then has all threads go back but that one: the others sleep for some microseconds, too, when one
// is about to take over work of another.
//
// The price: a program starts twice, and its monitor takes a processor away from a system call that blocks after a millisecond instead of 70 µs. The
// few threads that the monitor itself starts have the wide slack, with what they start, unless [Restore] is called on them.
package timerslack
