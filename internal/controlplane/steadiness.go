package controlplane

import (
	"time"

	"go.uber.org/zap"
)

// steadiness tells a clock that was set ahead. The zero value has not looked yet: a process takes the clock as it finds it.
type steadiness struct {
	wall, running time.Time // as seen at the last look
	ahead         time.Duration
	until         time.Time // of the doubt, by the clock that nobody sets
}

// look reports whether what has ended by the wall clock can be believed to have ended. running is time.Now, whose difference
// to an earlier one is of a clock that nobody sets.
func (s *steadiness) look(wall, running time.Time, log *zap.Logger) bool {
	wall = wall.Round(0)
	if !s.wall.IsZero() {
		switch jump := wall.Sub(s.wall) - running.Sub(s.running); {
		case jump > doubtful:
			s.ahead, s.until = s.ahead+jump, running.Add(doubtFor)
			log.Warn("the clock was set ahead: rotations of roots wait, because what seems to have ended may live on",
				zap.Duration("by", jump), zap.Duration("at_most", doubtFor))
		case jump < -doubtful:
			s.ahead = max(0, s.ahead+jump)
			log.Warn("the clock was set back", zap.Duration("by", -jump))
		}
	}
	s.wall, s.running = wall, running
	if s.ahead <= doubtful || !running.Before(s.until) {
		s.ahead = 0
		return true
	}
	return false
}
