package tlssteal

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/mirrord-go/mirrord/internal/agent/target"
	"github.com/mirrord-go/mirrord/internal/tlsconn"
	"github.com/mirrord-go/mirrord/internal/tlsport"
)

const (
	// maxFile bounds a file, in bytes: the certificates of all public authorities are 200 KiB.
	maxFile = 1 << 20
	// maxFolder bounds the entries of a folder of certificates.
	maxFolder = 512
)

// readFile reads a file of the target.
func (p *Port) readFile(name string) ([]byte, error) {
	f, err := p.files.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return b, nil
}

// pair reads a certificate and its key.
func (p *Port) pair(field string, a tlsport.Authentication) (tls.Certificate, error) {
	cert, err := p.readFile(a.CertPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s.certPem: %w", field, err)
	}
	key, err := p.readFile(a.KeyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s.keyPem: %w", field, err)
	}
	// Its errors say what a block is and is not, and nothing of what is in it.
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s (%s, %s): %w", field, a.CertPEM, a.KeyPEM, err)
	}
	return pair, nil
}

// roots reads all certificates of files and folders. Nil stands for no paths.
func (p *Port) roots(field string, paths []string) (*x509.CertPool, error) {
	if len(paths) == 0 {
		return nil, nil //nolint:nilnil // no pool is what crypto/tls takes for that
	}
	all := &pool{CertPool: x509.NewCertPool()}
	for i, name := range paths {
		if err := p.addRoots(all, name); err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
	}
	if all.n == 0 {
		return nil, fmt.Errorf("%s: there is no certificate in the files", field)
	}
	return all.CertPool, nil
}

func (p *Port) addRoots(all *pool, name string) error {
	b, err := p.readFile(name)
	if err == nil {
		return all.add(name, b)
	}
	if !errors.Is(err, target.ErrNotRegular) {
		return err
	}
	names, err := p.files.ReadDirNames(name, maxFolder)
	if err != nil {
		return err
	}
	for _, n := range names {
		file := path.Join(name, n)
		b, err := p.readFile(file)
		if errors.Is(err, target.ErrNotRegular) {
			continue // a folder, such as those that Kubernetes makes beside projected files
		}
		if err == nil {
			err = all.add(file, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add takes the certificates of a PEM file. In a folder there may be files without any.
func (all *pool) add(name string, b []byte) error {
	certs, err := tlsconn.Certificates(b)
	if errors.Is(err, tlsconn.ErrNone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, c := range certs {
		all.AddCert(c)
		all.n++
	}
	return nil
}
