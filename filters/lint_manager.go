package filters

import (
	"slices"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
)

// lintRefusal is the body that every refusal has.
const lintRefusal = `{"type":"about:blank","title":"request refused","status":%RESPONSE_CODE%}`

// managerSettings judges what both directions demand of a connection manager.
func (l *linter) managerSettings(h *hcmv3.HttpConnectionManager, path string) {
	l.need(h.GetNormalizePath().GetValue(), setNormalizePath, path, "paths are taken as they come")
	l.need(h.GetMergeSlashes(), setMergeSlashes, path, "slashes are not merged")
	l.need(h.GetPathWithEscapedSlashesAction() == hcmv3.HttpConnectionManager_REJECT_REQUEST, setEscapedSlashes, path, "%s", h.GetPathWithEscapedSlashesAction())
	l.need(h.GetStripAnyHostPort(), setStripPort, path, "the port stays in the host")
	l.need(h.GetStripTrailingHostDot(), setStripDot, path, "the dot stays behind the host")
	l.need(h.GetForwardClientCertDetails() == hcmv3.HttpConnectionManager_SANITIZE, setXFCC, path, "%s", h.GetForwardClientCertDetails())
	l.need(nobodyInternal(h.GetInternalAddressConfig()), setInternal, path, "some addresses are internal")
	l.need(h.GetUseRemoteAddress().GetValue(), setRemoteAddress, path, "the client says its own address")
	l.need(h.GetSkipXffAppend(), setXFF, path, "addresses are told on")
	l.need(h.GetServerHeaderTransformation() == hcmv3.HttpConnectionManager_PASS_THROUGH, setServerHeader, path, "%s", h.GetServerHeaderTransformation())
	l.need(between(h.GetMaxRequestHeadersKb(), 1, lintHeadersKB), setHeadersKB, path, "no bound, or too high a one")
	l.need(within(h.GetRequestHeadersTimeout(), lintHeaders), setHeadersTimeout, path, "no limit, or too long a one")
	l.need(within(h.GetStreamIdleTimeout(), lintIdle), setStreamIdle, path, "no limit, or too long a one")
	l.earlyMutation(h.GetEarlyHeaderMutationExtensions(), path)
	l.localReply(h.GetLocalReplyConfig(), path)
	common := h.GetCommonHttpProtocolOptions()
	l.need(within(common.GetIdleTimeout(), lintIdle), setIdle, path, "no limit, or too long a one")
	l.need(within(common.GetMaxConnectionDuration(), lintConnectionLife), setConnectionLife, path, "no limit, or too long a one")
	l.need(within(common.GetMaxStreamDuration(), lintConnectionLife), setStreamLife, path, "no limit, or too long a one")
	l.need(between(common.GetMaxHeadersCount(), 1, lintHeadersCount), setHeadersCount, path, "no bound, or too high a one")
	l.need(common.GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_REJECT_REQUEST, setUnderscores, path, "%s", common.GetHeadersWithUnderscoresAction())
	l.http2(h.GetHttp2ProtocolOptions(), path)
}

func (l *linter) http2(o *corev3.Http2ProtocolOptions, path string) {
	l.need(between(o.GetMaxConcurrentStreams(), 1, lintStreams), setHTTP2Streams, path, "no bound, or too high a one")
	l.need(between(o.GetInitialStreamWindowSize(), lintMinWindow, lintWindow), setHTTP2StreamWindow, path, "no bound, or one that is too high or too low")
	l.need(between(o.GetInitialConnectionWindowSize(), lintMinWindow, lintWindow), setHTTP2Window, path, "no bound, or one that is too high or too low")
}

// nobodyInternal accepts the one form that was measured to make no address internal. An absent or empty message makes
// private and loopback addresses internal.
func nobodyInternal(c *hcmv3.HttpConnectionManager_InternalAddressConfig) bool {
	ranges := c.GetCidrRanges()
	return len(ranges) == 1 && ranges[0].GetAddressPrefix() == "255.255.255.255" && ranges[0].GetPrefixLen().GetValue() == 32
}

// earlyMutation accepts removals only, and demands those of everything that the mesh or Envoy itself says in headers.
func (l *linter) earlyMutation(exts []*corev3.TypedExtensionConfig, path string) {
	path = join(path, "early_header_mutation_extensions")
	if !l.need(len(exts) == 1, setEarlyMutation, path, "%d extensions", len(exts)) {
		return
	}
	l.need(exts[0].GetName() == headerMutName, setExtName, path, "%q", clip(exts[0].GetName()))
	var m earlyv3.HeaderMutation
	if !l.unpack(exts[0].GetTypedConfig(), &m, path) {
		return
	}
	var removed []string
	for _, mutation := range m.GetMutations() {
		switch a := mutation.GetAction().(type) {
		case *mutationv3.HeaderMutation_Remove:
			removed = append(removed, a.Remove)
		case *mutationv3.HeaderMutation_RemoveOnMatch_:
			removed = append(removed, a.RemoveOnMatch.GetKeyMatcher().GetPrefix()+"*")
		default:
			l.report(setEarlyMutation, path, "something else than a removal")
		}
	}
	slices.Sort(removed)
	want := []string{"x-envoy-*", "x-forwarded-for", "x-ringfence-*"}
	l.need(slices.Equal(removed, want), setEarlyMutation, path, "removes %q, not %q", removed, want)
}

func (l *linter) localReply(c *hcmv3.LocalReplyConfig, path string) {
	format := c.GetBodyFormat()
	l.need(format.GetTextFormatSource().GetInlineString() == lintRefusal, setLocalReply, path, "another body than the one refusal")
	l.need(format.GetContentType() == "application/problem+json", setLocalReply, path, "the content type is %q", clip(format.GetContentType()))
}
