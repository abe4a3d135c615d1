// Package files is the file system of a target's container, for a session: the server's side of package targetfs.
//
// Every path is looked up below the root of the target's process (openat2(2) with RESOLVE_IN_ROOT and
// RESOLVE_NO_MAGICLINKS), so that no symbolic link, "..", or race with a rename leads out of the container. What was found is held by a
// descriptor that can't read or write (O_PATH), looked at, and judged by both names, the one that was asked for and the one that it led to;
// only then is that very file opened. Devices, pipes and sockets are never opened.
//
// Calls are made by threads that have the user, the groups and no more capabilities than the target's process ([identity]), so that
// a session reads and writes what the application could, and not what the agent could.
package files
