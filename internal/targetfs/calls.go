package targetfs

import "context"

// Stat implements [FS].
func (c *Client) Stat(ctx context.Context, path string, follow bool) (Attr, error) {
	r, err := c.call(ctx, &request{op: opStat, path: path, follow: follow})
	if err != nil {
		return Attr{}, err
	}
	return r.attr, nil
}

// Statfs implements [FS].
func (c *Client) Statfs(ctx context.Context, path string) (Statfs, error) {
	r, err := c.call(ctx, &request{op: opStatfs, path: path})
	if err != nil {
		return Statfs{}, err
	}
	return r.statfs, nil
}

// Access implements [FS].
func (c *Client) Access(ctx context.Context, path string, mode uint32, follow bool) error {
	_, err := c.call(ctx, &request{op: opAccess, path: path, flags: mode, follow: follow})
	return err
}

// Readlink implements [FS].
func (c *Client) Readlink(ctx context.Context, path string) (string, error) {
	r, err := c.call(ctx, &request{op: opReadlink, path: path})
	if err != nil {
		return "", err
	}
	return r.text, nil
}

// Open implements [FS].
func (c *Client) Open(ctx context.Context, path string, flags OpenFlags, perm uint32) (File, error) {
	if flags&Truncate != 0 {
		c.changes.Add(1)
		defer c.changes.Add(1)
	}
	before := c.changes.Load()
	r, err := c.call(ctx, &request{op: opOpen, path: path, flags: uint32(flags), perm: perm})
	if err != nil {
		return nil, err
	}
	return newFile(c, path, flags, r, before), nil
}

// Mkdir implements [FS].
func (c *Client) Mkdir(ctx context.Context, path string, perm uint32) error {
	_, err := c.call(ctx, &request{op: opMkdir, path: path, perm: perm})
	return err
}

// Remove implements [FS].
func (c *Client) Remove(ctx context.Context, path string, dir bool) error {
	_, err := c.call(ctx, &request{op: opRemove, path: path, follow: dir})
	return err
}

// Rename implements [FS].
func (c *Client) Rename(ctx context.Context, from, to string, flags RenameFlags) error {
	_, err := c.call(ctx, &request{op: opRename, path: from, second: to, flags: uint32(flags)})
	return err
}

// Symlink implements [FS].
func (c *Client) Symlink(ctx context.Context, content, path string) error {
	_, err := c.call(ctx, &request{op: opSymlink, path: path, second: content})
	return err
}

// Link implements [FS].
func (c *Client) Link(ctx context.Context, from, path string) error {
	_, err := c.call(ctx, &request{op: opLink, path: path, second: from})
	return err
}

// SetAttr implements [FS].
func (c *Client) SetAttr(ctx context.Context, path string, follow bool, ch Change) error {
	if ch.Size != nil {
		c.changes.Add(1)
		defer c.changes.Add(1)
	}
	_, err := c.call(ctx, &request{op: opSetAttr, path: path, follow: follow, change: ch})
	return err
}

// Getxattr implements [FS].
func (c *Client) Getxattr(ctx context.Context, path, name string, follow bool) ([]byte, error) {
	r, err := c.call(ctx, &request{op: opGetxattr, path: path, second: name, follow: follow})
	if err != nil {
		return nil, err
	}
	return r.data, nil
}

// Listxattr implements [FS].
func (c *Client) Listxattr(ctx context.Context, path string, follow bool) ([]string, error) {
	r, err := c.call(ctx, &request{op: opListxattr, path: path, follow: follow})
	if err != nil {
		return nil, err
	}
	return r.names, nil
}
