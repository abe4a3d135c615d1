package mirror

import "slices"

// owner is one of those that ports are copied for.
type owner struct {
	budget budget
	ports  int
}

// own gives a port an owner. It reports false when it has that one already.
func (t *tracker) own(port uint16, who any) bool {
	if slices.Contains(t.ports[port], who) {
		return false
	}
	o := t.owners[who]
	if o == nil {
		o = &owner{budget: budget{all: t.budget}}
		t.owners[who] = o
		t.share()
	}
	o.ports++
	t.ports[port] = append(t.ports[port], who)
	return true
}

// disown takes an owner from a port, and returns it; nil when it is not the port's.
func (t *tracker) disown(port uint16, who any) *owner {
	i := slices.Index(t.ports[port], who)
	if i < 0 {
		return nil
	}
	o := t.owners[who]
	if t.ports[port] = slices.Delete(t.ports[port], i, i+1); len(t.ports[port]) == 0 {
		delete(t.ports, port)
	}
	if o.ports--; o.ports == 0 {
		delete(t.owners, who)
		t.share()
	}
	return o
}

// share divides the memory, so that one owner that reads slowly does not end the copies of
// the others.
func (t *tracker) share() {
	for _, o := range t.owners {
		o.budget.share.Store(t.budget.limit / int64(len(t.owners)))
	}
}
