// Package records keeps sessions as SessionRecords of the API server, for all replicas of the
// operator alike.
//
// A [Store] reads and writes records, and has a cache of all of them that follows the API
// server. Whatever a decision depends on is read from the API server or checked by its
// optimistic locking; the cache serves what is asked often.
package records

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	records "github.com/mirrord-go/mirrord/api/records/v1alpha"
)

// resource is the records' plural.
const resource = "sessionrecords"

// byUser is the cache's index of records by who created the session.
const byUser = "user"

// Store reads and writes records. It is safe for concurrent use.
type Store struct {
	client   rest.Interface
	params   runtime.ParameterCodec
	informer cache.SharedIndexInformer
}

// New returns a store that speaks to config's API server. Its cache is empty until its
// [Store.Informer] runs.
func New(config *rest.Config) (*Store, error) {
	scheme := runtime.NewScheme()
	if err := records.Install(scheme); err != nil {
		return nil, fmt.Errorf("the types of records: %w", err)
	}
	c := rest.CopyConfig(config)
	c.GroupVersion = &schema.GroupVersion{Group: records.GroupName, Version: records.GroupVersion.Version}
	c.APIPath = "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("a client for records: %w", err)
	}
	s := &Store{client: client, params: runtime.NewParameterCodec(scheme)}
	lw := cache.NewListWatchFromClient(client, resource, metav1.NamespaceAll, fields.Everything())
	s.informer = cache.NewSharedIndexInformer(lw, &records.SessionRecord{}, 0, cache.Indexers{byUser: func(o any) ([]string, error) {
		if r, ok := o.(*records.SessionRecord); ok {
			return []string{r.Status.User}, nil
		}
		return nil, nil
	}})
	return s, nil
}

// Informer is the store's cache, for who runs it and who wants to be told of changes.
func (s *Store) Informer() cache.SharedIndexInformer { return s.informer }

// Cached returns a record from the cache, which may be behind; nil when it is not there. The
// record must not be changed.
func (s *Store) Cached(namespace, name string) *records.SessionRecord {
	obj, ok, err := s.informer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	return obj.(*records.SessionRecord)
}

// All returns the cache's records. They must not be changed.
func (s *Store) All() []*records.SessionRecord {
	objs := s.informer.GetStore().List()
	all := make([]*records.SessionRecord, len(objs))
	for i, o := range objs {
		all[i] = o.(*records.SessionRecord)
	}
	return all
}

// OfUser returns the cache's records of sessions that a user has created. They must not be changed.
func (s *Store) OfUser(user string) []*records.SessionRecord {
	objs, err := s.informer.GetIndexer().ByIndex(byUser, user)
	if err != nil {
		return nil // there is that index
	}
	of := make([]*records.SessionRecord, len(objs))
	for i, o := range objs {
		of[i] = o.(*records.SessionRecord)
	}
	return of
}

// Get reads a record from the API server.
func (s *Store) Get(ctx context.Context, namespace, name string) (*records.SessionRecord, error) {
	r := new(records.SessionRecord)
	err := s.client.Get().Namespace(namespace).Resource(resource).Name(name).Do(ctx).Into(r)
	return r, err
}

// List reads records from the API server; an empty namespace means all.
func (s *Store) List(ctx context.Context, namespace string, opts metav1.ListOptions) (*records.SessionRecordList, error) {
	l := new(records.SessionRecordList)
	err := s.client.Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).
		VersionedParams(&opts, s.params).Do(ctx).Into(l)
	return l, err
}

// Watch follows records of the API server; an empty namespace means all.
func (s *Store) Watch(ctx context.Context, namespace string, opts metav1.ListOptions) (watch.Interface, error) {
	opts.Watch = true
	return s.client.Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).
		VersionedParams(&opts, s.params).Watch(ctx)
}

// Create writes a new record.
func (s *Store) Create(ctx context.Context, r *records.SessionRecord) (*records.SessionRecord, error) {
	made := new(records.SessionRecord)
	err := s.client.Post().Namespace(r.Namespace).Resource(resource).Body(r).Do(ctx).Into(made)
	return made, err
}

// Delete removes the record that r is, if it still is that one. One that is gone is an error
// of the API server's, NotFound.
func (s *Store) Delete(ctx context.Context, r *records.SessionRecord) error {
	opts := metav1.NewPreconditionDeleteOptions(string(r.UID))
	return s.client.Delete().Namespace(r.Namespace).Resource(resource).Name(r.Name).Body(opts).Do(ctx).Error()
}

// ErrUnchanged says that a change to a record is not necessary.
var ErrUnchanged = errors.New("nothing to change")

// Update changes the record that r is. The function change gets a copy to work on, first one
// of r, then, whenever somebody else was faster, one as the API server has it. When change
// returns [ErrUnchanged], Update returns the record as it was; another error is returned.
func (s *Store) Update(ctx context.Context, r *records.SessionRecord, change func(*records.SessionRecord) error) (*records.SessionRecord, error) {
	var result *records.SessionRecord
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if result != nil {
			fresh, err := s.Get(ctx, r.Namespace, r.Name)
			if err != nil {
				return err
			}
			if fresh.UID != r.UID {
				return fmt.Errorf("the session %s/%s is another one now", r.Namespace, r.Name)
			}
			r = fresh
		}
		result = r
		work := r.DeepCopy()
		if err := change(work); err != nil {
			if errors.Is(err, ErrUnchanged) {
				return nil
			}
			return err
		}
		written := new(records.SessionRecord)
		if err := s.client.Put().Namespace(r.Namespace).Resource(resource).Name(r.Name).Body(work).Do(ctx).Into(written); err != nil {
			return err
		}
		result = written
		return nil
	})
	return result, err
}
