package main

import (
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// addLogLevel adds the flag --log-level.
func addLogLevel(flags *pflag.FlagSet) *logLevel {
	l := logLevel(zapcore.InfoLevel)
	flags.Var(&l, "log-level", "debug, info, warn or error")
	return &l
}

type logLevel zapcore.Level

var _ pflag.Value = (*logLevel)(nil)

func (l *logLevel) String() string { return zapcore.Level(*l).String() }

// Set takes the name of a level.
func (l *logLevel) Set(s string) error { return (*zapcore.Level)(l).UnmarshalText([]byte(s)) }

// Type is what help says of the value.
func (*logLevel) Type() string { return "level" }

// newLog writes JSON lines, or lines for people where the log is a terminal; without colours, whatever NO_COLOR says.
func newLog(w io.Writer, level logLevel) *zap.Logger {
	config := zap.NewProductionEncoderConfig()
	config.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(config)
	if isTerminal(w) {
		config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		encoder = zapcore.NewConsoleEncoder(config)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), zapcore.Level(level)))
}

// sampled thins out more than some hundred equal messages a second, so that nobody floods a log from outside. It is not
// for refused calls, each of which has its line.
func sampled(log *zap.Logger) *zap.Logger {
	const first, thereafter = 200, 100
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, first, thereafter)
	}))
}

func isTerminal(w io.Writer) bool {
	if p, ok := w.(*plainWriter); ok {
		w = p.to
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
