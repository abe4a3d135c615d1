package config

import "slices"

// at binds a field to the value that p points to. The zero value of a nilable type is none.
func at[T any](p func(*Config) *T) binding {
	return binding{
		get: func(c *Config) any { return *p(c) },
		set: func(c *Config, v any) { *p(c) = v.(T) },
	}
}

// atOptional binds a field that may be unset.
func atOptional[T any](p func(*Config) **T) binding {
	return binding{
		get: func(c *Config) any {
			if v := *p(c); v != nil {
				return *v
			}
			return nil
		},
		set: func(c *Config, v any) { value := v.(T); *p(c) = &value },
	}
}

// atText binds a text; the empty one is none.
func atText[T ~string](p func(*Config) *T) binding {
	return binding{
		get: func(c *Config) any {
			if v := *p(c); v != "" {
				return string(v)
			}
			return nil
		},
		set: func(c *Config, v any) { *p(c) = T(v.(string)) },
	}
}

// atUint binds a number of any size.
func atUint[T ~uint16 | ~uint64](p func(*Config) *T) binding {
	return binding{
		get: func(c *Config) any { return uint64(*p(c)) },
		set: func(c *Config, v any) { *p(c) = T(v.(uint64)) },
	}
}

// atList binds a list; nil is none, and an empty one is not.
func atList[T any](p func(*Config) *[]T) binding {
	return binding{
		get: func(c *Config) any {
			if v := *p(c); v != nil {
				return v
			}
			return nil
		},
		set: func(c *Config, v any) { *p(c) = slices.Clone(v.([]T)) },
	}
}

// atMap binds a map; nil is none.
func atMap[T any](p func(*Config) *map[string]T) binding {
	return binding{
		get: func(c *Config) any {
			if v := *p(c); v != nil {
				return v
			}
			return nil
		},
		set: func(c *Config, v any) { *p(c) = v.(map[string]T) },
	}
}

// atFilter binds one list of a filter, which comes to be with it.
func atFilter(filter func(*Config) **Filter, list func(*Filter) *[]string) binding {
	return binding{
		get: func(c *Config) any {
			if f := *filter(c); f != nil && *list(f) != nil {
				return *list(f)
			}
			return nil
		},
		set: func(c *Config, v any) {
			f := filter(c)
			if *f == nil {
				*f = &Filter{}
			}
			*list(*f) = slices.Clone(v.([]string))
		},
	}
}
