package value

import "encoding/json"

// geometry is a GeoJSON object of the types that there are.
type geometry struct {
	Type        string          `json:"type"`
	Coordinates json.RawMessage `json:"coordinates"`
	Geometry    *geometry       `json:"geometry"`
}

// position is a longitude and a latitude.
type position [2]float64

// UnmarshalJSON refuses what does not have two.
func (p *position) UnmarshalJSON(b []byte) error {
	var n []float64
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if len(n) < 2 || n[0] < -180 || n[0] > 180 || n[1] < -90 || n[1] > 90 {
		return malformed("position %v", n)
	}
	*p = position{n[0], n[1]}
	return nil
}

// checkGeoJSON reports whether text is an object that can be a value: a point, a
// polygon or several, a circle, or a feature with one of these. Whether a polygon
// closes and does not cross itself is not looked at.
func checkGeoJSON(text string) error {
	var g geometry
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		return malformed("GeoJSON: %v", err)
	}
	if g.Type == "Feature" && g.Geometry != nil {
		g = *g.Geometry
	}
	var into any
	switch g.Type {
	case "Point":
		into = new(position)
	case "Polygon":
		into = new([][]position)
	case "MultiPolygon":
		into = new([][][]position)
	case "AeroCircle":
		var parts []json.RawMessage
		if err := json.Unmarshal(g.Coordinates, &parts); err != nil || len(parts) != 2 {
			return malformed("AeroCircle without center and radius")
		}
		var radius float64
		if err := json.Unmarshal(parts[1], &radius); err != nil {
			return malformed("AeroCircle: %v", err)
		}
		g.Coordinates, into = parts[0], new(position)
	default:
		return malformed("GeoJSON of type %q", g.Type)
	}
	if err := json.Unmarshal(g.Coordinates, into); err != nil {
		return malformed("GeoJSON: %v", err)
	}
	return nil
}
