package session

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	recordsv1 "github.com/mirrord-go/mirrord/api/records/v1alpha"
	sessions "github.com/mirrord-go/mirrord/api/sessions/v1alpha"
)

func TestWatchesShowSessions(t *testing.T) {
	from := watch.NewFake()
	w := shown(from)
	go func() {
		from.Add(&recordsv1.SessionRecord{ObjectMeta: metav1.ObjectMeta{Name: "s-1"}, Groups: []string{"secret"}})
		from.Error(&metav1.Status{Reason: metav1.StatusReasonExpired})
		from.Stop()
	}()
	e := <-w.ResultChan()
	if s, ok := e.Object.(*sessions.Session); !ok || e.Type != watch.Added || s.Name != "s-1" {
		t.Errorf("%s %+v", e.Type, e.Object)
	}
	if e = <-w.ResultChan(); e.Type != watch.Error {
		t.Errorf("%s %+v", e.Type, e.Object)
	}
	if e, more := <-w.ResultChan(); more {
		t.Errorf("after the end: %s %+v", e.Type, e.Object)
	}
	w.Stop()
}

// TestAWatchThatIsLeftEnds: who watches may go at any moment, with events on their way. The test's
// end finds what is left behind.
func TestAWatchThatIsLeftEnds(t *testing.T) {
	for range 10 {
		from := watch.NewFakeWithChanSize(2, false)
		from.Add(&recordsv1.SessionRecord{})
		from.Modify(&recordsv1.SessionRecord{})
		w := shown(from)
		w.Stop()
		w.Stop()
	}
}
