package controlplane

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1alpha1 "github.com/ringfence-mesh/ringfence/api/agent/v1alpha1"
	"github.com/ringfence-mesh/ringfence/api/v1alpha1"
	"github.com/ringfence-mesh/ringfence/identity"
	"github.com/ringfence-mesh/ringfence/identity/issuer"
	"github.com/ringfence-mesh/ringfence/internal/durable"
	"github.com/ringfence-mesh/ringfence/tenancy"
	"github.com/ringfence-mesh/ringfence/xds/server"
)

// Operators' revocations are kept as the documents that they are, so that people can read them, and move them into platform/.
const (
	revocationsFile = "revocations.yaml"
	revocationsMode = 0o600
	maxRevocations  = 1000
	// revocationsKept is how long a revocation stays in the file after its time limit: a clock that is ahead must not end for good
	// what still holds.
	revocationsKept = 24 * time.Hour
)

// revocations are those that operators have made. They are no documents of the source: a document with a problem must not
// keep a revocation from taking effect.
type revocations struct {
	path string // empty: in memory only

	mu   sync.Mutex // held while one is made or undone
	held struct {
		sync.Mutex
		docs []*v1alpha1.Revocation
	}
}

// openRevocations reads what was kept. A file that cannot be read stops the control plane: without it, who was revoked would
// be let in again, and nobody would notice.
func openRevocations(state string) (*revocations, error) {
	r := &revocations{}
	if state == "" {
		return r, nil
	}
	r.path = filepath.Join(state, revocationsFile)
	var err error
	r.held.docs, err = openRevocationFile(r.path)
	return r, err
}

// openRevocationFile reads what was kept; a file that is not there holds nothing.
func openRevocationFile(path string) (docs []*v1alpha1.Revocation, err error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err == nil:
		docs, err = decodeRevocations(data)
	}
	if err != nil {
		return nil, fmt.Errorf("the revocations that operators have made cannot be read, mend or remove %s: %w", path, err)
	}
	return docs, nil
}

func decodeRevocations(data []byte) ([]*v1alpha1.Revocation, error) {
	docs, problems := v1alpha1.Decode(v1alpha1.File{Path: "platform/" + revocationsFile, Data: data})
	if len(problems) > 0 {
		return nil, fmt.Errorf("line %d: %s", problems[0].Line, problems[0].Text)
	}
	list := make([]*v1alpha1.Revocation, 0, len(docs))
	for _, doc := range docs {
		one, ok := doc.(*v1alpha1.Revocation)
		if !ok {
			return nil, fmt.Errorf("kind %s does not belong here", v1alpha1.Quote(doc.Head().Kind.Value))
		}
		list = append(list, one)
	}
	return list, nil
}

// list is what is in force or would be; nobody changes it.
func (r *revocations) list() []*v1alpha1.Revocation {
	r.held.Lock()
	defer r.held.Unlock()
	return r.held.docs
}

// replace keeps the list, on disk first.
func (r *revocations) replace(docs []*v1alpha1.Revocation) error {
	if r.path != "" {
		var data bytes.Buffer
		for _, doc := range docs {
			data.Write(encodeRevocation(doc.Metadata.Name.Value, identityOf(doc), doc.Spec.Reason.Value, doc.Spec.NotAfter.Value))
		}
		if err := durable.Replace(r.path, data.Bytes(), revocationsMode); err != nil {
			return err
		}
	}
	r.held.Lock()
	defer r.held.Unlock()
	r.held.docs = docs
	return nil
}

// encodeRevocation writes a document.
func encodeRevocation(name string, id *agentv1alpha1.RevokedIdentity, reason string, notAfter time.Time) []byte {
	var b bytes.Buffer
	put := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", key, quote(value))
		}
	}
	b.WriteString("---\n")
	put("apiVersion", v1alpha1.APIVersion)
	put("kind", string(v1alpha1.KindRevocation))
	b.WriteString("metadata:\n")
	put("  name", name)
	b.WriteString("spec:\n")
	put("  workload", id.GetWorkload())
	if id.GetSerial() != "" || id.GetTrustDomain() != "" {
		b.WriteString("  certificate:\n")
		put("    serial", id.GetSerial())
		put("    trustDomain", id.GetTrustDomain())
	}
	if id.GetJti()+id.GetSubject()+id.GetSession()+id.GetIssuer() != "" {
		b.WriteString("  token:\n")
		put("    jti", id.GetJti())
		put("    subject", id.GetSubject())
		put("    session", id.GetSession())
		put("    issuer", id.GetIssuer())
	}
	put("  tenant", id.GetTenant())
	put("  reason", reason)
	put("  notAfter", notAfter.UTC().Format(time.RFC3339))
	return b.Bytes()
}

// quote writes a text as JSON does, which YAML reads alike.
func quote(text string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) //nolint:errchkjson // a text can always be written
	return strings.TrimSuffix(b.String(), "\n")
}

func identityOf(doc *v1alpha1.Revocation) *agentv1alpha1.RevokedIdentity {
	id := &agentv1alpha1.RevokedIdentity{Workload: doc.Spec.Workload.Value, Tenant: doc.Spec.Tenant.Value}
	if c := doc.Spec.Certificate; c != nil {
		id.Serial, id.TrustDomain = c.Serial.Value, c.TrustDomain.Value
	}
	if t := doc.Spec.Token; t != nil {
		id.Jti, id.Subject, id.Session, id.Issuer = t.JTI.Value, t.Subject.Value, t.Session.Value, t.Issuer.Value
	}
	return id
}

// revoker answers operators on the admin socket.
type revoker struct {
	agentv1alpha1.UnimplementedRevocationsServer

	cp *ControlPlane
}

var _ agentv1alpha1.RevocationsServer = revoker{}

// Revoke keeps a revocation and answers when the control plane serves it.
func (s revoker) Revoke(ctx context.Context, req *agentv1alpha1.RevokeRequest) (*agentv1alpha1.RevokeResponse, error) {
	r := s.cp.revocations
	r.mu.Lock()
	defer r.mu.Unlock()
	g := s.cp.Generation()
	if g == nil {
		return nil, status.Error(codes.FailedPrecondition, errNotReady.Error())
	}
	now := s.cp.clock()
	notAfter := time.Unix(req.GetNotAfterUnix(), 0)
	if !now.Before(notAfter) {
		return nil, status.Error(codes.InvalidArgument, "its time limit is over already")
	}
	name := newRevocationName()
	docs, err := decodeRevocations(encodeRevocation(name, req.GetIdentity(), req.GetReason(), notAfter))
	if err != nil || len(docs) != 1 {
		return nil, status.Errorf(codes.InvalidArgument, "not a revocation: %v", err)
	}
	if problems := g.Model().CheckRevocation(docs[0]); len(problems) > 0 {
		return nil, status.Error(codes.InvalidArgument, problems[0].Text)
	}
	list := slices.DeleteFunc(slices.Clone(r.list()), func(d *v1alpha1.Revocation) bool {
		return !now.Before(d.Spec.NotAfter.Value.Add(revocationsKept))
	})
	holding := 0
	for _, d := range list {
		if now.Before(d.Spec.NotAfter.Value) {
			holding++
		}
	}
	if holding >= maxRevocations {
		return nil, status.Errorf(codes.ResourceExhausted, "there are %d revocations already: undo some, or write documents", len(list))
	}
	if err := r.replace(append(list, docs[0])); err != nil {
		return nil, status.Errorf(codes.Internal, "nothing is revoked, because it cannot be kept: %v", err)
	}
	s.cp.log.Info("revoked", zap.String("name", name), zap.Time("until", notAfter))
	number, err := s.reload(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Aborted, "revocation %s is kept, but not served before the next change or start: %v", name, err)
	}
	return &agentv1alpha1.RevokeResponse{Name: name, Generation: number}, nil
}

// Undo forgets a revocation that an operator made; those in documents end with their documents.
func (s revoker) Undo(ctx context.Context, req *agentv1alpha1.UndoRevocationRequest) (*agentv1alpha1.UndoRevocationResponse, error) {
	r := s.cp.revocations
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.list()
	after := slices.DeleteFunc(slices.Clone(before), func(d *v1alpha1.Revocation) bool { return d.Metadata.Name.Value == req.GetName() })
	if len(after) == len(before) {
		return nil, status.Error(codes.NotFound, "no operator made a revocation of that name; one of a document ends with its document")
	}
	if err := r.replace(after); err != nil {
		return nil, status.Errorf(codes.Internal, "nothing is undone, because it cannot be kept: %v", err)
	}
	s.cp.log.Info("revocation undone", zap.String("name", req.GetName()))
	number, err := s.reload(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Aborted, "undone, but that is not served before the next change or start: %v", err)
	}
	return &agentv1alpha1.UndoRevocationResponse{Generation: number}, nil
}

// reload makes what is kept what is served.
func (s revoker) reload(ctx context.Context) (uint64, error) {
	e := s.cp.pipeline.Reload(context.WithoutCancel(ctx)) // what is kept must be tried, whether or not somebody waits
	switch {
	case e.Counterexample != nil:
		return 0, errors.New(e.Counterexample.Text)
	case e.Published:
		return e.Generation.Number(), nil
	case e.Err != nil:
		return 0, e.Err
	}
	return e.Generation.Number(), nil
}

// List is every revocation that is not over: operators' and those of documents that count.
func (s revoker) List(_ context.Context, req *agentv1alpha1.ListRevocationsRequest) (*agentv1alpha1.ListRevocationsResponse, error) {
	answer := &agentv1alpha1.ListRevocationsResponse{}
	now := s.cp.clock()
	about := func(tenants ...string) bool {
		return req.GetTenant() == "" || slices.Contains(tenants, req.GetTenant())
	}
	var model *tenancy.Model
	if g := s.cp.Generation(); g != nil {
		model = g.Model()
	}
	seen := map[string]bool{}
	if model != nil {
		for _, id := range model.Tenants() {
			t, _ := model.Tenant(id)
			for _, one := range t.Revocations() {
				listed := one.Pos == "" || seen[one.Pos] // operators' come from where they are kept
				if listed || !about(id.Name()) || !now.Before(one.NotAfter) {
					continue
				}
				seen[one.Pos] = true
				answer.Revocations = append(answer.Revocations, listedOf(one, id.TrustDomain().String()))
			}
		}
	}
	for _, doc := range s.cp.revocations.list() {
		if now.Before(doc.Spec.NotAfter.Value) && (req.GetTenant() == "" || model != nil && model.Revokes(doc, req.GetTenant())) {
			answer.Revocations = append(answer.Revocations, &agentv1alpha1.ListedRevocation{
				Name: doc.Metadata.Name.Value, Identity: identityOf(doc), Reason: doc.Spec.Reason.Value,
				NotAfterUnix: doc.Spec.NotAfter.Value.Unix(),
			})
		}
	}
	slices.SortStableFunc(answer.GetRevocations(), func(x, y *agentv1alpha1.ListedRevocation) int {
		return strings.Compare(x.GetName(), y.GetName())
	})
	return answer, nil
}

func listedOf(r tenancy.Revocation, trustDomain string) *agentv1alpha1.ListedRevocation {
	id := &agentv1alpha1.RevokedIdentity{
		Workload: r.Workload.String(), Serial: r.Serial, Issuer: r.Issuer, Jti: r.JTI, Subject: r.Subject, Session: r.Session,
	}
	if r.Serial != "" {
		id.TrustDomain = trustDomain
	}
	return &agentv1alpha1.ListedRevocation{
		Name: r.Name, Position: r.Pos, Identity: id, Reason: r.Reason, NotAfterUnix: r.NotAfter.Unix(),
	}
}

func newRevocationName() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails (Go 1.24)
	return "r-" + hex.EncodeToString(b)
}

// revokes reports whether a revocation that is published holds of the peer.
func (cp *ControlPlane) revokes(p identity.Peer) bool {
	return cp.pipeline.Current().Revokes(p.ID(), p.Serial(), cp.clock())
}

// renewals gives no SVID to whoever is revoked, on a connection that was open before that either: the next one would have
// another serial number.
type renewals struct {
	agentv1alpha1.RenewalServer

	cp *ControlPlane
}

// Renew implements the Renewal service.
func (r renewals) Renew(ctx context.Context, req *agentv1alpha1.RenewRequest) (*agentv1alpha1.RenewResponse, error) {
	if _, err := r.cp.ads.Caller(ctx); errors.Is(err, server.ErrRevoked) {
		r.cp.log.Warn("renewal refused", zap.Error(err))
		return nil, status.Error(codes.PermissionDenied, issuer.ErrNotRenewable.Error())
	}
	return r.RenewalServer.Renew(ctx, req)
}
