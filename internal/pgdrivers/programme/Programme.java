import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;

/** The programme by JDBC, in the query mode that MODE names. */
class Programme {
	static final Map<String, String> env = System.getenv();
	static Connection conn;
	/** An application keeps its statements: the driver names those that are used often. */
	static final Map<String, PreparedStatement> prepared = new HashMap<>();

	static PreparedStatement prepare(String sql, List<String> args) throws SQLException {
		PreparedStatement s = prepared.get(sql);
		if (s == null) {
			s = conn.prepareStatement(sql.replaceAll("\\$\\d+", "?"));
			prepared.put(sql, s);
		}
		for (int i = 0; i < args.size(); i++) set(s, i + 1, args.get(i).charAt(0), args.get(i).substring(2));
		return s;
	}

	static void set(PreparedStatement s, int i, char type, String text) throws SQLException {
		switch (type) {
			case '0' -> s.setNull(i, Types.NULL);
			case 'i' -> { if (text.length() > 9) s.setLong(i, Long.parseLong(text)); else s.setInt(i, Integer.parseInt(text)); }
			case 'f' -> s.setDouble(i, Double.parseDouble(text));
			case 'b' -> s.setBoolean(i, Boolean.parseBoolean(text));
			case 'x' -> s.setBytes(i, HexFormat.of().parseHex(text));
			case 'm' -> s.setBigDecimal(i, new BigDecimal(text));
			case 'd' -> s.setObject(i, LocalDate.parse(text));
			case 't' -> s.setObject(i, OffsetDateTime.parse(text));
			case 'u' -> s.setObject(i, UUID.fromString(text));
			case 'j' -> s.setObject(i, text, Types.OTHER);
			case 'a' -> s.setArray(i, conn.createArrayOf("text", text.split(",")));
			default -> s.setString(i, text);
		}
	}

	static String rows(ResultSet r) throws SQLException {
		StringBuilder all = new StringBuilder();
		while (r.next()) {
			if (all.length() > 0) all.append("; ");
			for (int i = 1; i <= r.getMetaData().getColumnCount(); i++) {
				String v = r.getString(i);
				all.append(i > 1 ? "|" : "").append(v == null ? "NULL" : v);
			}
		}
		return all.toString();
	}

	static String said(SQLException e) {
		String message = e instanceof PSQLException p && p.getServerErrorMessage() != null ? p.getServerErrorMessage().getMessage() : e.getMessage();
		return "ERROR " + e.getSQLState() + " " + message;
	}

	static String step(String what, String sql, List<String> args, List<List<String>> batch) throws Exception {
		switch (what) {
			case "simple":
				try (Statement s = conn.createStatement()) {
					s.execute(sql);
					StringBuilder counts = new StringBuilder().append(s.getUpdateCount());
					while (s.getMoreResults() || s.getUpdateCount() != -1) counts.append(",").append(s.getUpdateCount());
					return counts.toString();
				}
			case "exec":
				PreparedStatement exec = prepare(sql, args);
				return exec.execute() ? rows(exec.getResultSet()) : "" + exec.getUpdateCount();
			case "query":
				try (ResultSet r = prepare(sql, args).executeQuery()) {
					return rows(r);
				}
			case "batch":
				PreparedStatement s = null;
				for (List<String> row : batch) {
					s = prepare(sql, row);
					s.addBatch();
				}
				try {
					return Arrays.toString(s.executeBatch());
				} catch (BatchUpdateException e) {
					return Arrays.toString(e.getUpdateCounts()) + " " + said(e.getNextException());
				}
			case "begin": conn.setAutoCommit(false); return null;
			case "commit": conn.commit(); conn.setAutoCommit(true); return null;
			case "rollback": conn.rollback(); conn.setAutoCommit(true); return null;
			case "copyin":
				StringBuilder data = new StringBuilder();
				for (String a : args) data.append(a.substring(2).replace('|', '\t')).append('\n');
				return "" + conn.unwrap(PGConnection.class).getCopyAPI().copyIn(sql, new StringReader(data.toString()));
			case "copyout":
				StringWriter to = new StringWriter();
				conn.unwrap(PGConnection.class).getCopyAPI().copyOut(sql, to);
				return to.toString().replace('\t', '|').replace('\n', ';');
		}
		throw new IllegalArgumentException("unknown step " + what);
	}

	public static void main(String[] a) throws Exception {
		Properties p = new Properties();
		p.setProperty("user", env.get("PGUSER"));
		p.setProperty("password", env.get("PGPASSWORD"));
		p.setProperty("sslmode", env.get("PGSSLMODE"));
		p.setProperty("gssEncMode", "disable");
		if (env.containsKey("PGSSLROOTCERT")) p.setProperty("sslrootcert", env.get("PGSSLROOTCERT"));
		switch (env.get("MODE")) {
			case "jdbc-simple" -> p.setProperty("preferQueryMode", "simple");
			case "jdbc-rewrite" -> p.setProperty("reWriteBatchedInserts", "true");
		}
		conn = DriverManager.getConnection("jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE"), p);
		List<String> lines = Files.readAllLines(Path.of(env.get("STEPS")));
		for (int i = 0; i < lines.size(); i++) {
			if (lines.get(i).isEmpty() || lines.get(i).startsWith("#")) continue;
			List<String> step = Arrays.asList(lines.get(i).split("\t", -1));
			String what = step.get(0), name = step.size() > 1 ? step.get(1) : what;
			if (what.equals("own")) {
				if (!env.containsKey("WALPROXY")) continue;
				what = "query";
			}
			List<List<String>> batch = new ArrayList<>();
			while (what.equals("batch") && lines.get(i + 1).startsWith("+")) {
				List<String> row = Arrays.asList(lines.get(++i).split("\t", -1));
				batch.add(row.subList(1, row.size()));
			}
			String text;
			try {
				text = step(what, step.size() > 2 ? step.get(2) : "", step.subList(Math.min(3, step.size()), step.size()), batch);
			} catch (SQLException e) {
				text = said(e);
			}
			if (text != null) System.out.println(name + ": " + text);
		}
		conn.close();
	}
}
