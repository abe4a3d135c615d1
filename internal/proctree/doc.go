// Package proctree finds the processes of a session, to end them: those below its local
// process, and those that carry its mark in their environment. Only Linux has sessions;
// elsewhere it finds nothing.
package proctree
