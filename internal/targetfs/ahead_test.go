package targetfs

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestReadAheadIsBounded: many files that are read in part and left open hold no more than their share, and who reads later has its
// places when what they hold is of no use any more.
func TestReadAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pair(t, &memory{size: 16 << 20})
		b := make([]byte, MaxData)
		var files []*file
		begin := func() *file {
			opened, err := c.Open(t.Context(), "/x", Read, 0)
			if err != nil {
				t.Fatal(err)
			}
			f := opened.(*file)
			files = append(files, f)
			for i := range int64(4) {
				if n, err := f.ReadAt(t.Context(), b, i*MaxData); n != MaxData || err != nil {
					t.Fatalf("read %d, %v", n, err)
				}
			}
			return f
		}
		for range 100 {
			begin()
		}
		synctest.Wait()
		ahead := func(files ...*file) (n int) {
			for _, f := range files {
				for _, k := range f.blocks {
					if k.ahead {
						n++
					}
				}
			}
			return n
		}
		if n := ahead(files...); n == 0 || n > maxAhead || n != c.readers.all {
			t.Errorf("%d blocks are held, %d are counted", n, c.readers.all)
		}
		if ahead(begin()) != 0 {
			t.Error("there was room although all places were taken")
		}
		time.Sleep(fresh + time.Second)
		if ahead(begin()) == 0 {
			t.Error("who reads now reads nothing ahead, for files that were left")
		}
		for _, f := range files {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		if c.readers.all != 0 || len(c.readers.files) != 0 {
			t.Errorf("%d places are left behind", c.readers.all)
		}
	})
}
