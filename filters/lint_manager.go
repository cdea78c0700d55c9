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
	demand(l, h.GetPathWithEscapedSlashesAction(), hcmv3.HttpConnectionManager_REJECT_REQUEST, setEscapedSlashes, path)
	l.need(h.GetStripAnyHostPort(), setStripPort, path, "the port stays in the host")
	l.need(h.GetStripTrailingHostDot(), setStripDot, path, "the dot stays behind the host")
	demand(l, h.GetForwardClientCertDetails(), hcmv3.HttpConnectionManager_SANITIZE, setXFCC, path)
	l.need(nobodyInternal(h.GetInternalAddressConfig()), setInternal, path, "some addresses are internal")
	l.need(h.GetUseRemoteAddress().GetValue(), setRemoteAddress, path, "the client says its own address")
	l.need(h.GetSkipXffAppend(), setXFF, path, "addresses are told on")
	demand(l, h.GetServerHeaderTransformation(), hcmv3.HttpConnectionManager_PASS_THROUGH, setServerHeader, path)
	l.bounded(h.GetMaxRequestHeadersKb(), 1, lintHeadersKB, setHeadersKB, path)
	l.limited(h.GetRequestHeadersTimeout(), lintHeaders, setHeadersTimeout, path)
	l.limited(h.GetStreamIdleTimeout(), lintIdle, setStreamIdle, path)
	l.earlyMutation(h.GetEarlyHeaderMutationExtensions(), path)
	l.localReply(h.GetLocalReplyConfig(), path)
	common := h.GetCommonHttpProtocolOptions()
	l.limited(common.GetIdleTimeout(), lintIdle, setIdle, path)
	l.limited(common.GetMaxConnectionDuration(), lintConnectionLife, setConnectionLife, path)
	l.limited(common.GetMaxStreamDuration(), lintConnectionLife, setStreamLife, path)
	l.bounded(common.GetMaxHeadersCount(), 1, lintHeadersCount, setHeadersCount, path)
	demand(l, common.GetHeadersWithUnderscoresAction(), corev3.HttpProtocolOptions_REJECT_REQUEST, setUnderscores, path)
	l.http2(h.GetHttp2ProtocolOptions(), path)
}

func (l *linter) http2(o *corev3.Http2ProtocolOptions, path string) {
	l.bounded(o.GetMaxConcurrentStreams(), 1, lintStreams, setHTTP2Streams, path)
	l.bounded(o.GetInitialStreamWindowSize(), lintMinWindow, lintWindow, setHTTP2StreamWindow, path)
	l.bounded(o.GetInitialConnectionWindowSize(), lintMinWindow, lintWindow, setHTTP2Window, path)
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
			l.reportf(setEarlyMutation, path, "something else than a removal")
		}
	}
	slices.Sort(removed)
	want := []string{"x-envoy-*", "x-forwarded-for", "x-ringfence-*"}
	l.need(slices.Equal(removed, want), setEarlyMutation, path, "removes %q, not %q", removed, want)
}

func (l *linter) localReply(c *hcmv3.LocalReplyConfig, path string) {
	format := c.GetBodyFormat()
	l.need(format.GetTextFormatSource().GetInlineString() == lintRefusal, setLocalReply, path, "another body than the one refusal")
	problem := format.GetContentType() == "application/problem+json"
	l.need(problem, setLocalReply, path, "the content type is %q", clip(format.GetContentType()))
}
