// Package fsmount gives out descriptors of a target's files that the kernel serves like those of a disk: they read, seek, map, list, append
// and lock, and a large file is read as it is wanted, never copied whole.
//
// Behind them is a FUSE file system that nobody sees. A process of its own, the holder, makes the mount and keeps it detached from every
// path (fsmount(2)), with the rights that it has, or as the root of a user namespace of its own. The kernel's requests come to this process,
// which asks the target (package targetfs). The holder opens files in the mount and sends the descriptors over a socket.
//
// The holder is there for two reasons. A user who is not root needs a namespace to mount in. And a process that opens files of a file
// system that it serves itself can't be killed: it would wait for its own answer while it dies. The holder has no descriptor of
// /dev/fuse, so the mount fails as soon as this process is gone, however it ended, and the holder ends with its socket.
//
// The files of the mount are not the target's tree but what was opened: each file stands in the mount's root under a name of its own, which
// was opened at the target before, in one question. The target decides and resolves symbolic links; the mount only serves.
package fsmount

// Command is the hidden command by which the executable is started again as the holder. The socket is its descriptor 3.
const Command = "files-holder"
