package v1alpha1

import "time"

// String is a text with its position. The zero value is a field that was not written.
type String struct {
	Value string
	Pos   Pos
}

// IsSet reports whether the field was written.
func (s String) IsSet() bool { return !s.Pos.IsZero() }

// Int is a whole number with its position.
type Int struct {
	Value int64
	Pos   Pos
}

// IsSet reports whether the field was written.
func (i Int) IsSet() bool { return !i.Pos.IsZero() }

// Bool is true or false with its position.
type Bool struct {
	Value bool
	Pos   Pos
}

// IsSet reports whether the field was written.
func (b Bool) IsSet() bool { return !b.Pos.IsZero() }

// Time is a moment (RFC 3339) with its position.
type Time struct {
	Value time.Time
	Pos   Pos
}

// IsSet reports whether the field was written.
func (t Time) IsSet() bool { return !t.Pos.IsZero() }

// Duration is a length of time such as 15m with its position.
type Duration struct {
	Value time.Duration
	Pos   Pos
}

// IsSet reports whether the field was written.
func (d Duration) IsSet() bool { return !d.Pos.IsZero() }
